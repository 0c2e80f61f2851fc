"""Installs Almena on a host: accounts, folders, environment, units. Nothing here needs more than Python's own library, because the Debian
package runs it before the environment is there."""
