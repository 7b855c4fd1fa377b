"""What ckptclamp must withstand, and the programs that measure whether it does; see docs/reliability.md."""
