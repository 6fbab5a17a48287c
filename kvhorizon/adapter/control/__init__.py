"""One step's decisions: the rule at the step, plans followed, victims, and the reasons recorded."""
