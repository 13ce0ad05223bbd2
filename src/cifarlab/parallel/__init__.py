"""Several processes that train one network together. The only users of torch.distributed."""
