"""`dimba export`: a trained model as others use it, written only with the proof that it is what was trained."""
