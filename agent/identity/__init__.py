"""Who this device is: its key and certificate, how it gets them, and how they are renewed.

almena join ──► Enrolment server ──► device.pem, ca.pem ──► MQTT session
renewal (uplink) ──► renewal.key ──► next.pem ──► accepted by the broker ──► device.pem
"""
