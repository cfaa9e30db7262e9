"""What we owe, what happened, what we have: pure rules over Parquet, no other I/O."""
