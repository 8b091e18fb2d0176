"""Does the client control the name? All outbound validation traffic starts here and nowhere else."""
