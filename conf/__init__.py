"""The YAML configuration; installed as the package nnexp.conf, so that Hydra finds it wherever nnexp is."""
