"""What a release gate adds to an audit: a baseline, and statements about what was audited."""
