"""Remember it. SQLite and PostgreSQL under one SQL text."""
