"""What both services deploy: the agent, its model, the wire vocabulary and the web parts."""
