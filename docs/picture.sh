#!/bin/sh
# Makes docs/demo.png, the README's picture: the top of the report that `weightspace demo` writes, as chromium shows it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
weightspace demo --zoo "$work/demo" -o "$work/report.html"
"${CHROMIUM:-chromium}" --headless --no-sandbox --disable-gpu --hide-scrollbars \
  --window-size=1200,785 --screenshot="$here/demo.png" "file://$work/report.html"
