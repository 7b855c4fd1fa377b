#!/usr/bin/env bash
# The audit of the GitHub Action: inputs in INPUT_*, reports in RUNNER_TEMP, outputs in GITHUB_OUTPUT.
# The exit code of ckptclamp becomes an output; only failures of the script itself fail this step.
set -euo pipefail

refuse() {
    echo "::error title=ckptclamp::the input \`$1\` must $2"
    exit 2
}

# What is neither must not be taken for one of them: a gate that was to fail would pass.
true_or_false() {
    [ "$2" = true ] || [ "$2" = false ] || refuse "$1" "be true or false"
}

[ -n "${INPUT_CHECKPOINT:-}" ] || refuse checkpoint "name a checkpoint"
true_or_false strict "${INPUT_STRICT-false}"
true_or_false upload-sarif "${INPUT_UPLOAD_SARIF-false}"
true_or_false fail "${INPUT_FAIL-true}"

if [ -z "${CKPTCLAMP:-}" ]; then
    python3 -m venv "$RUNNER_TEMP/ckptclamp-environment"
    pip="$RUNNER_TEMP/ckptclamp-environment/bin/pip"
    "$pip" install --quiet --require-hashes \
        -r "$ACTION_ROOT/ci/build-requirements.txt" -r "$ACTION_ROOT/ci/requirements.txt"
    "$pip" install --quiet --no-deps --no-build-isolation "$ACTION_ROOT"
    CKPTCLAMP="$RUNNER_TEMP/ckptclamp-environment/bin/ckptclamp"
fi

reports=$(mktemp -d "$RUNNER_TEMP/ckptclamp-XXXXXXXX")
arguments=(-f github)
arguments+=(
    -o "json=$reports/report.json"
    -o "sarif=$reports/report.sarif"
    -o "junit=$reports/junit.xml"
    -o "markdown=$reports/report.md"
)
[ -z "${INPUT_SPEC:-}" ] || arguments+=("--spec=$INPUT_SPEC")
[ -z "${INPUT_BASELINE:-}" ] || arguments+=("--baseline=$INPUT_BASELINE")
[ -z "${INPUT_CHECKPOINT_NAME:-}" ] || arguments+=("--checkpoint-name=$INPUT_CHECKPOINT_NAME")
[ -z "${INPUT_TOLERANCE:-}" ] || arguments+=("--tolerance=$INPUT_TOLERANCE")
[ -z "${INPUT_ATTEST:-}" ] || arguments+=("--attest=$INPUT_ATTEST")
[ "${INPUT_STRICT-false}" = false ] || arguments+=(--strict)

code=0
"$CKPTCLAMP" audit "${arguments[@]}" -- "$INPUT_CHECKPOINT" || code=$?

output() {
    printf '%s=%s\n' "$1" "$2" >>"$GITHUB_OUTPUT"
}

output exit-code "$code"
if [ -e "$reports/report.json" ]; then
    python3 - "$reports/report.json" >>"$GITHUB_OUTPUT" <<'PYTHON'
import json, sys

with open(sys.argv[1], encoding="utf-8") as file:
    print(f"violations={int(json.load(file)['census']['violations'])}")
PYTHON
    output json "$reports/report.json"
    output sarif "$reports/report.sarif"
    output junit "$reports/junit.xml"
    cat "$reports/report.md" >>"$GITHUB_STEP_SUMMARY"
else
    # Why there is no report stands on stderr; the summary must not look as if all were well.
    echo "ckptclamp made no report (exit $code); the log says why." >>"$GITHUB_STEP_SUMMARY"
fi
