"""What a release is, and the choices about it: who gets which, whether one is worse, whether one stays."""
