"""What many experiments need: the frame, digests of sources, cells, replays kept, ratios, pictures."""
