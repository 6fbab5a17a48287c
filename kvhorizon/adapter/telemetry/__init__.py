"""What the plugin measures, made visible: metrics, recordings, explanations. Nothing here decides anything."""
