"""DPO: pairs of answers, and the reference that they are compared under."""
