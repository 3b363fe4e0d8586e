"""What both apps would otherwise write twice: the edge between HTTP and the service."""
