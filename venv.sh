#!/bin/sh
# Makes a virtual environment with a suitable Python: sh venv.sh FOLDER [PYTHON]
# It takes PYTHON (python3.12, 3.12, a path) if that is given, else the first that will do of python3,
# python3.14 ... python3.11, and uv where none will. One line says what to install where nothing will do.
# sh venv.sh --check FOLDER [PYTHON] says whether the environment that is there still works.
OLDEST=11 NEWEST=14
VERSION='import sys, sysconfig; print("%d.%d" % sys.version_info[:2], sysconfig.get_platform())'

fail() {
  echo "mambalab: $1, then make again" >&2
  exit 1
}

version_of() { # of the first that runs
  for python in "$@"; do
    told=$("$python" -c "$VERSION" 2>/dev/null) && echo "${told%% *}" && return
  done
}

refuse_another() { # FOLDER, the version that it has, the Python that is asked for
  want=${3:+$(version_of "$3" "python$3")}
  [ -z "$want" ] || [ "$want" = "$2" ] || fail "$1 has Python $2, not $want: make clean"
}

if [ "$1" = --check ]; then
  have=$(version_of "$2/bin/python")
  "$2/bin/python" -P -c 'from importlib.metadata import version; version("mambalab"); version("torch")' 2>/dev/null ||
    fail "$2 does not work any more (its Python was replaced, or the folder was moved): make clean"
  refuse_another "$2" "$have" "$3"
  exit 0
fi

folder=$1 asked=$2

have=$(version_of "$folder/bin/python")
if [ -n "$have" ]; then # a second Python in it would make a mixture
  refuse_another "$folder" "$have" "$asked"
  "$folder/bin/python" -c 'import pip' 2>/dev/null && exit 0
fi

if [ -n "$asked" ]; then
  set -- "$asked" "python$asked"
else
  set -- python3 python3.14 python3.13 python3.12 python3.11
fi

if [ "$(uname -sm 2>/dev/null)" = "Darwin x86_64" ]; then
  echo "mambalab: PyTorch has no wheels for Intel Macs since 2.3: use another machine, or on Apple silicon a Python that is not for Intel" >&2
  exit 1
fi

bare='' # a suitable Python that cannot make environments
other='' # a Python that is too old or too new, or made for Intel Macs
for python in "$@"; do
  told=$("$python" -c "$VERSION" 2>/dev/null) || continue
  version=${told%% *}
  case $version in 3.*) minor=${version#3.} ;; *) minor=0 ;; esac
  case $told in *macosx-*-x86_64)
    [ -n "$other" ] || other="$python is made for Intel Macs, for which PyTorch has no wheels"
    continue ;;
  esac
  if [ "$minor" -lt $OLDEST ] || [ "$minor" -gt $NEWEST ]; then
    [ -n "$other" ] || other="$python is Python $version"
    [ "$minor" -le $NEWEST ] || other="$other, for which pyarrow has no wheels yet"
  elif "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    exec "$python" -m venv "$folder"
  elif [ -z "$bare" ]; then
    bare=$python bare_version=$version
  fi
done

if command -v uv >/dev/null 2>&1 && { [ -z "$asked" ] || [ -z "$other" ]; }; then
  wanted=${bare:-${asked:->=3.$OLDEST,<3.$((NEWEST + 1))}}
  exec uv venv --seed --allow-existing --python "$wanted" "$folder"
fi
if [ -n "$bare" ]; then
  fail "$bare cannot make virtual environments: apt install python$bare_version-venv (Debian, Ubuntu)"
fi
found=${other:-there is no ${asked:-python3}}
fail "$found; install Python 3.$OLDEST to 3.$NEWEST (apt install python3-venv, dnf install python3, brew install python) or uv"
