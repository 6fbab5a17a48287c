"""Does anything break: random plans and faults on vLLM's scheduler, damaged inputs."""
