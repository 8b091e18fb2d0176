"""What did a program or an operator say? The REST API."""
