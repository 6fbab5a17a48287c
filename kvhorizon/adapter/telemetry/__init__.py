"""What the guest measures, made visible: metrics, recordings, explanations. Nothing here decides anything."""
