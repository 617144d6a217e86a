#!/usr/bin/env bash
# Installs the Debian packages that the tests use, when they are missing and this user may; else says what stays
# untested. Their services are not started: the tests start their own servers on free ports.
set -euo pipefail

declare -A untested=(
  [postgresql]="关系库在 PostgreSQL 上的测试 / the relational store on PostgreSQL"
  [mosquitto]="性能对照 / the peer of the benchmarks"
  [mosquitto-clients]="mosquitto_pub 的端到端测试 / end-to-end tests with mosquitto_pub"
  [chromium]="控制台的浏览器测试 / browser tests of the console"
  [chromium-driver]="控制台的浏览器测试 / browser tests of the console"
  [sip-tester]="GB/T 28181 的 SIPp 测试 / GB/T 28181 with SIPp"
  [tshark]="GB/T 28181 报文的 tshark 校验 / GB/T 28181 on the wire, read by tshark"
  [wrk]="HTTP 性能 / HTTP benchmarks"
  [fonts-noto-cjk]="截图和 PDF 报告中的中文 / Chinese text in screenshots and reports"
  [poppler-utils]="PDF 报告的核对 / reading the PDF report from outside"
)

have() {
  case $1 in
    postgresql) compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null ;;
    mosquitto) [[ -x /usr/sbin/mosquitto ]] || command -v mosquitto >/dev/null ;;
    mosquitto-clients) command -v mosquitto_pub >/dev/null ;;
    chromium) command -v chromium >/dev/null || command -v google-chrome >/dev/null ;;
    sip-tester) command -v sipp >/dev/null ;;
    chromium-driver) command -v chromedriver >/dev/null ;;
    poppler-utils) command -v pdftotext >/dev/null ;;
    fonts-noto-cjk) compgen -G '/usr/share/fonts/opentype/noto/NotoSansCJK*' >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

missing=()
for package in "${!untested[@]}"; do
  have "$package" || missing+=("$package")
done
((${#missing[@]})) || exit 0

as_root=()
if ((EUID != 0)); then
  as_root=(sudo -n)
  "${as_root[@]}" true 2>/dev/null || as_root=(false)
fi
policy=/usr/sbin/policy-rc.d
if command -v apt-get >/dev/null && [[ ${as_root[0]:-} != false ]]; then
  echo "安装测试所需的 Debian 软件包 / installing Debian packages for the tests: ${missing[*]}"
  if [[ ! -e $policy ]]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
  fi
  log=$(mktemp)
  "${as_root[@]}" apt-get update -qq >"$log" 2>&1 || true
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >>"$log" 2>&1 </dev/null; then
    tail -20 "$log" >&2
  fi
  rm -f "$log"
fi

for package in "${missing[@]}"; do
  have "$package" || echo "缺 $package，未测 / $package is missing, so untested: ${untested[$package]}" >&2
done
