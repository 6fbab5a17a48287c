"""The solver as a gRPC service: sessions in, plans out."""
