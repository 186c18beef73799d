"""Networks that become velocity fields: the LightningDiT family and other people's checkpoints."""
