"""What is known of a run, out of its log and its workers' events: every second named, every step once, and where it stands now."""
