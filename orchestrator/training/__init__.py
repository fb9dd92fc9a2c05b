"""What runs on a worker. It meets the supervisor only in the bucket, and never imports it."""
