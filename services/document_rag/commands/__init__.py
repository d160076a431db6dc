"""prosa-ingest and prosa-ask: documents and questions from a terminal, through the gateway like any client."""
