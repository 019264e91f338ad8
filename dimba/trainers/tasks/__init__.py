"""Tasks of lm-eval (EleutherAI's lm-evaluation-harness), run on models that dimba has loaded."""
