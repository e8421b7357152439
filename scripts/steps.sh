# Sourced by the check scripts: named steps with their times, and virtual environments.

steps_done=()

step() { # NAME COMMAND...: runs the command, and notes its time
  local name=$1 started=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  "$@"
  steps_done+=("$(printf '%5d s  %s' $((SECONDS - started)) "$name")")
}

steps_table() {
  [ ${#steps_done[@]} -eq 0 ] || printf '%s\n' '' '== time of each step' "${steps_done[@]}"
}
trap steps_table EXIT

environment() { # FOLDER PYTHON PIP-ARGUMENTS...: a fresh virtual environment with what pip is given
  local folder=$1 python=$2
  shift 2
  [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
  # To compile all modules takes as long as to install them, and a check imports few of them.
  "$folder/bin/python" -m pip install -q --no-compile --disable-pip-version-check "$@"
}

python_of() { # VERSION: prints the path of such an interpreter, from the PATH or from pyenv
  local found
  for found in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
    if [ -x "$found" ] && [ "$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null)" = "$1" ]; then
      echo "$found"
      return
    fi
  done
  return 1
}
