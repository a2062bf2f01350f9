"""Speed and memory, compared with limits of the machine and with other libraries for the same task, in the same run."""
