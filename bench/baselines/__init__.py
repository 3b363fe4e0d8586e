"""What the service is measured against: plain applications, written once, never tuned."""
