# What `.ci/run` and `.ci/deep` share: steps that say how long they took, and what a fresh
# machine lacks.

TIMEFORMAT='== took %0R s, %0U s of a processor'
step() {
    printf '\n== %s\n' "$1"
    shift
    # Said in so many words: where a step is followed by `||`, the shell would go on.
    time timeout "${LIMIT:-900}" "$@" || return
}

# A step of which nothing is said but how long it took, unless it fails.
quiet() {
    mkdir -p target
    step "$@" >target/quiet.txt 2>&1 || { cat target/quiet.txt; return 1; }
    grep '^==' target/quiet.txt
}

# Begins a step that needs little of the machine, or minds nobody, beside those that
# follow; `gather` waits for all of them and shows what they said.
asides=()
aside() {
    mkdir -p target
    step "$@" >"target/aside-${#asides[@]}.txt" 2>&1 &
    asides+=("$!")
}
gather() {
    local number failed=0
    for number in "${!asides[@]}"; do
        wait "${asides[number]}" || failed=1
        tail -n 60 "target/aside-$number.txt"
    done
    asides=()
    return "$failed"
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

# Nothing is built twice here.
export CARGO_INCREMENTAL=0

# rustfmt and clippy come with the default profile; a minimal one lacks them.
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
# valgrind counts instructions; binutils name functions for the sanitizers.
if ! command -v valgrind >/dev/null || ! command -v addr2line >/dev/null; then
    root=(sudo)
    [ "$(id -u)" -ne 0 ] || root=()
    { "${root[@]}" apt-get update && "${root[@]}" apt-get install -y valgrind binutils; } ||
        { echo "install valgrind and binutils" >&2; exit 1; }
fi
