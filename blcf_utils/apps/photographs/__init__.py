"""Own photographs: a folder indexed once, brought up to date cheaply, and searched."""
