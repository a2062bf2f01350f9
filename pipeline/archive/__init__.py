"""What holds the rows: files, locks, Delta tables, one writer's discipline."""
