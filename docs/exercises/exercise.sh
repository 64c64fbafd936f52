#!/bin/sh
# Judges an exercise of the course.
# usage: docs/exercises/exercise.sh NAME [BUILD]        build and judge NAME's start.cpp
#        docs/exercises/exercise.sh --list              the exercises
#        docs/exercises/exercise.sh --all [BUILD]       every solution must pass, every start fail
#        docs/exercises/exercise.sh --verdicts [BUILD]  every verdict as JSON (built before)
set -eu
cd "$(dirname "$0")/../.."
name=${1:---list}
build=${2:-build/release}
here=docs/exercises

configure() {
    if [ "$build" = build/release ]; then
        cmake --preset release -DATTN_DOCS=ON
    else
        cmake -S . -B "$build" -DATTN_DOCS=ON
    fi > /dev/null
}
exercises() { for task in "$here"/*/task.md; do basename "$(dirname "$task")"; done; }

case $name in
    --list)
        for exercise in $(exercises); do
            printf '%-16s %s\n' "$exercise" "$(sed -n '1s/^# //p' "$here/$exercise/task.md")"
        done ;;
    --all)
        configure
        ctest --test-dir "$build" --label-regex '^exercise$' --output-on-failure ;;
    --verdicts)
        separator='{'
        for exercise in $(exercises); do
            program=$build/docs/exercises/exercise_$exercise
            printf '%s"%s": {"start": %s, "solution": %s}' "$separator" "$exercise" \
                "$("${program}_start" --json || true)" "$("${program}_solution" --json)"
            separator=',
'
        done
        echo '}' ;;
    *)
        if ! [ -f "$here/$name/start.cpp" ]; then
            echo "exercise: there is no '$name'; there are:" $(exercises) >&2
            exit 2
        fi
        configure
        cmake --build "$build" --target "exercise_${name}_start"
        echo "$name: $(sed -n '1s/^# //p' "$here/$name/task.md"), $here/$name/start.cpp"
        "$build/docs/exercises/exercise_${name}_start" ;;
esac
