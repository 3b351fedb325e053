"""Training: tasks, the loop on Lightning Fabric, exact resume, run folders."""
