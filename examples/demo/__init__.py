"""`make demo`: an anonymous network on one machine, and real DNS questions through it.

Every node is a process of its own.  How an application uses the tunnels is in `client`, how a relay is run in `relay`;
`__main__` starts them, tells what happens, and ends them.
"""
