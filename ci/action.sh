#!/usr/bin/env bash
# The audit of the GitHub Action, in two steps: `prepare` finds or says what is to run, `audit` runs
# it. Inputs in INPUT_*, reports in RUNNER_TEMP, outputs in GITHUB_OUTPUT. The exit code of ckptclamp
# becomes an output; only failures of the script itself fail a step, with an annotation.
set -euo pipefail
INPUT_CHECKPOINT=${INPUT_CHECKPOINT-}

refuse() {
    echo "::error title=ckptclamp::$1"
    exit 2
}

output() {
    printf '%s=%s\n' "$1" "$2" >>"$GITHUB_OUTPUT"
}

# What is neither must not be taken for one of them: a gate that was to fail would pass.
true_or_false() {
    [ "$2" = true ] || [ "$2" = false ] || refuse "the input \`$1\` must be true or false"
}

# Before anything is installed: an input that makes no sense, and a Python that is too old.
check() {
    true_or_false strict "${INPUT_STRICT-false}"
    true_or_false upload-sarif "${INPUT_UPLOAD_SARIF-false}"
    true_or_false fail "${INPUT_FAIL-true}"
    true_or_false cache "${INPUT_CACHE-true}"
    if [ -n "${INPUT_MANIFEST:-}" ]; then
        [ -z "${INPUT_CHECKPOINT//[$'\r\n\t ']/}" ] ||
            refuse "the inputs \`checkpoint\` and \`manifest\` exclude each other"
    elif [ -z "${INPUT_CHECKPOINT//[$'\r\n\t ']/}" ]; then
        refuse "the input \`checkpoint\` must name a checkpoint, or \`manifest\` a manifest"
    fi
    if [ -n "${INPUT_PROGRAM:-}" ]; then
        command -v -- "$INPUT_PROGRAM" >/dev/null ||
            refuse "there is no program \`$INPUT_PROGRAM\`, which the input \`program\` names"
        return
    fi
    command -v python3 >/dev/null ||
        refuse "there is no python3: set one up, for example by actions/setup-python, or name an installed ckptclamp in \`program\`"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        refuse "Python 3.11 or later is needed, and this is $(python3 -c 'import platform; print(platform.python_version())'): set one up, for example by actions/setup-python"
}

# What pip fetches is kept by what would be fetched: the system, the Python and the requirements.
prepare() {
    check
    [ -z "${INPUT_PROGRAM:-}" ] && [ "${INPUT_CACHE-true}" = true ] || return 0
    local version requirements
    version=$(python3 -c 'import platform; print(platform.python_version(), platform.machine(), sep="-")')
    requirements=$(python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest()[:16])' "$ACTION_ROOT/ci/requirements.txt")
    output cache-path "$RUNNER_TEMP/ckptclamp-pip"
    output cache-key "ckptclamp-pip-${RUNNER_OS:-unknown}-$version-$requirements"
}

install() {
    python3 -m venv "$RUNNER_TEMP/ckptclamp-environment"
    local pip="$RUNNER_TEMP/ckptclamp-environment/bin/pip"
    export PIP_CACHE_DIR="$RUNNER_TEMP/ckptclamp-pip"
    {
        "$pip" install --quiet --require-hashes \
            -r "$ACTION_ROOT/ci/build-requirements.txt" -r "$ACTION_ROOT/ci/requirements.txt" &&
            "$pip" install --quiet --no-deps --no-build-isolation "$ACTION_ROOT"
    } || refuse "ckptclamp could not be installed; the log says why"
    INPUT_PROGRAM="$RUNNER_TEMP/ckptclamp-environment/bin/ckptclamp"
}

audit() {
    check
    [ -n "${INPUT_PROGRAM:-}" ] || install
    local reports code=0 line arguments named=()
    reports=$(mktemp -d "$RUNNER_TEMP/ckptclamp-XXXXXXXX")
    arguments=(
        -f github
        -o "json=$reports/report.json"
        -o "sarif=$reports/report.sarif"
        -o "junit=$reports/junit.xml"
        -o "markdown=$reports/report.md"
    )
    [ -z "${INPUT_MANIFEST:-}" ] || arguments+=("--manifest=$INPUT_MANIFEST")
    [ -z "${INPUT_SPEC:-}" ] || arguments+=("--spec=$INPUT_SPEC")
    [ -z "${INPUT_BASELINE:-}" ] || arguments+=("--baseline=$INPUT_BASELINE")
    [ -z "${INPUT_CHECKPOINT_NAME:-}" ] || arguments+=("--checkpoint-name=$INPUT_CHECKPOINT_NAME")
    [ -z "${INPUT_TOLERANCE:-}" ] || arguments+=("--tolerance=$INPUT_TOLERANCE")
    [ -z "${INPUT_ATTEST:-}" ] || arguments+=("--attest=$INPUT_ATTEST")
    [ "${INPUT_STRICT-false}" = false ] || arguments+=(--strict)
    # A line is a checkpoint or a glob, which ckptclamp expands; the shell must not.
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line%$'\r'}
        [ -z "${line//[$'\t ']/}" ] || named+=("$line")
    done <<<"$INPUT_CHECKPOINT"

    "$INPUT_PROGRAM" audit "${arguments[@]}" -- ${named[@]+"${named[@]}"} || code=$?

    output exit-code "$code"
    if [ -e "$reports/report.json" ]; then
        # The counts stand in one line of their own, before anything that a checkpoint holds.
        output violations "$(sed -n '/^ "census": /{s/.*"violations": \([0-9]*\).*/\1/p;q;}' "$reports/report.json")"
        output json "$reports/report.json"
        output sarif "$reports/report.sarif"
        output junit "$reports/junit.xml"
        # Without an audit there are no findings, which would close those of earlier ones. There is one
        # where the document, or a section of it, is a report.
        if grep -Eq '^ (  )?"schema": "ckptclamp-report-1"' "$reports/report.json"; then
            output audited true
        fi
        cat "$reports/report.md" >>"$GITHUB_STEP_SUMMARY"
    else
        echo "::error title=ckptclamp::there is no report (exit $code); the log says why"
        # Why there is no report stands on stderr; the summary must not look as if all were well.
        echo "ckptclamp made no report (exit $code); the log says why." >>"$GITHUB_STEP_SUMMARY"
    fi
}

"${1:-audit}"
