"""Speed and memory beside limits of the machine and other libraries that do the same, measured in the same run."""
