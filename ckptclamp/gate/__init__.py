"""What a release gate keeps beside an audit: a baseline, and statements about what was audited."""
