"""What could stop a profile's run, looked for in seconds before hours are spent."""
