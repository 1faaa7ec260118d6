#!/bin/sh
# A Ceph of one node in memory, with its gateway that speaks S3, to run the tests of object storage against.
#
#   apt-get install --no-install-recommends ceph-common ceph-mgr ceph-mon ceph-osd radosgw
#   . tests/plugins/real_store.sh /tmp/ceph-of-tests     # starts it, and sets what the tests look at
#   pytest tests/sscm/test_object_storage.py
#   kill $(cat /tmp/ceph-of-tests/*.pid)
#
# Nothing of it survives a stop: the object store daemon keeps everything in memory.
folder=${1:-/tmp/ceph-of-tests}
port=${2:-7480}
(
    set -eu
    mkdir -p "$folder/mon" "$folder/osd" "$folder/mgr"
    fsid=$(cat /proc/sys/kernel/random/uuid)
    osd=$(cat /proc/sys/kernel/random/uuid)
    conf=$folder/ceph.conf
    cat >"$conf" <<END
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:40788,v1:127.0.0.1:40789]
keyring = $folder/keyring
mon data = $folder/mon
mgr data = $folder/mgr
osd data = $folder/osd
osd objectstore = memstore
memstore device bytes = 8589934592
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 2000
ms bind ipv4 = true
public addr = 127.0.0.1
cluster addr = 127.0.0.1
admin socket = $folder/\$name.asok
pid file = $folder/\$name.pid
log file = $folder/\$name.log
mon cluster log file = $folder/cluster.log
run dir = $folder
rgw frontends = beast endpoint=127.0.0.1:$port
rgw data = $folder/rgw
END
    rm -f "$folder/keyring"
    ceph-authtool --create-keyring "$folder/keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
    for name in client.admin client.rgw mgr.a osd.0; do
        ceph-authtool "$folder/keyring" --gen-key -n $name --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    done
    monmaptool --create --clobber --fsid "$fsid" \
        --addv a "[v2:127.0.0.1:40788,v1:127.0.0.1:40789]" "$folder/monmap" >/dev/null
    ceph-mon -c "$conf" -i a --mkfs --monmap "$folder/monmap" --keyring "$folder/keyring"
    ceph-mon -c "$conf" -i a
    ceph-mgr -c "$conf" -i a
    ceph -c "$conf" --connect-timeout 30 osd new "$osd" >/dev/null
    ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd"
    ceph-osd -c "$conf" -i 0
    radosgw -c "$conf" -n client.rgw
    radosgw-admin -c "$conf" user create --uid tests --display-name tests \
        --access-key of-tests --secret-key a-secret-that-is-nowhere >/dev/null
)
export SSCM_TEST_S3_ENDPOINT="http://127.0.0.1:$port" AWS_ACCESS_KEY_ID=of-tests
export AWS_SECRET_ACCESS_KEY=a-secret-that-is-nowhere
# Gateways older than 2025 do not know the checksums that clients send behind a body unless they are told not to.
export AWS_REQUEST_CHECKSUM_CALCULATION=when_required AWS_RESPONSE_CHECKSUM_VALIDATION=when_required
