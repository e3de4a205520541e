"""The explorer: choose an image, draw a box, turn a knob, see what is found and why."""
