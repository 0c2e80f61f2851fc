"""The fleet's side of identity: certificates, invitations, the broker's configuration; and what installs Almena on a host."""
