"""The processes of a job: the folder where they meet, and the store that they share."""
