"""Conversion of models: files of mace-torch, and one tensor product expressed in another."""
