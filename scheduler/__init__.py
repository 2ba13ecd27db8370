"""Who goes next: one bounded backlog per profile, deadlines, and exactly one outcome for every ticket."""
