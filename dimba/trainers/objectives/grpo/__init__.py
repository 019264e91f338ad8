"""GRPO: prompts, sampled groups, rewards and reward models."""
