"""What is done to the system, one file a kind of fault; each knows what its faults excuse."""
