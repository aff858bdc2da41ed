"""Datasets and their conversion. This file makes Python prefer this folder to an installed package `dataset`."""
