#!/bin/sh
# Everything of docs/reliability.md at its full size; each number can be set from the environment.
# Runs all of it whatever is found, and ends with 1 if anything was. What can work on several cores
# takes JOBS of them, by default all.
export OPENBLAS_NUM_THREADS=1
jobs=${JOBS:-$(nproc)}
failed=0
run() { echo "== torture.$*" >&2; "$PYTHON" -m "torture.$@" || failed=1; }

run mutations --count "${MUTANTS:-100000}" --jobs "$jobs"
run faults --every "${FAULTS_EVERY:-1}" --jobs "$jobs"
run scarcity --sizes "${SIZES:-15}"
run kills --kills "${KILLS:-200}" --size "${KILLS_MEBIBYTES:-1024}" \
    ${KILLS_DIRECTORY:+--directory "$KILLS_DIRECTORY"}
run resumes --kills "${RESUMES:-20}"
run resumes --kills "${RESUMES:-20}" --in-place
run survivors --every "${SURVIVORS_EVERY:-1}" --jobs "$jobs"
run load --tensors "${TENSORS:-100000}" --hdf5-tensors "${HDF5_TENSORS:-100000}"
if "$PYTHON" -c 'import atheris' 2>/dev/null; then
    run fuzz header zip index spec config json --seconds "${FUZZ_SECONDS:-600}" --jobs "$jobs"
else
    echo "skipped: torture.fuzz, since atheris is not installed" >&2
fi
exit $failed
