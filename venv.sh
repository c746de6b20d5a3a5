#!/bin/sh
# Makes a virtual environment with a suitable Python: sh venv.sh FOLDER [PYTHON]
# It takes PYTHON if that is given, else the first that will do of python3, python3.14 ... python3.11,
# and uv where none will. One line says what to install where nothing will do.
OLDEST=11 NEWEST=14
folder=$1
if [ -n "$2" ]; then candidates=$2; else candidates="python3 python3.14 python3.13 python3.12 python3.11"; fi

fail() {
  echo "mambalab: $1, then make again" >&2
  exit 1
}

if [ "$(uname -sm 2>/dev/null)" = "Darwin x86_64" ]; then
  echo "mambalab: PyTorch has no wheels for Intel Macs since 2.3: use another machine, or on Apple silicon a Python that is not for Intel" >&2
  exit 1
fi

bare='' # a suitable Python that cannot make environments
other='' # a Python that is too old or too new
for python in $candidates; do
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
  case $version in 3.*) minor=${version#3.} ;; *) minor=0 ;; esac
  if [ "$minor" -lt $OLDEST ] || [ "$minor" -gt $NEWEST ]; then
    [ -n "$other" ] || other="$python is Python $version"
    [ "$minor" -le $NEWEST ] || other="$other, for which pyarrow has no wheels yet"
  elif "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    exec "$python" -m venv "$folder"
  elif [ -z "$bare" ]; then
    bare=$python bare_version=$version
  fi
done

if command -v uv >/dev/null 2>&1 && [ -z "$2" ]; then
  exec uv venv --seed --allow-existing --python "${bare:->=3.$OLDEST,<3.$((NEWEST + 1))}" "$folder"
fi
if [ -n "$bare" ]; then
  fail "$bare cannot make virtual environments: apt install python$bare_version-venv (Debian, Ubuntu)"
fi
found=${other:-there is no ${2:-python3}}
fail "$found; install Python 3.$OLDEST to 3.$NEWEST (apt install python3-venv, dnf install python3, brew install python) or uv"
