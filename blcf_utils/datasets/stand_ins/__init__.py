"""Stand-ins: datasets with a benchmark's names and ground truth, on rendered pictures."""
