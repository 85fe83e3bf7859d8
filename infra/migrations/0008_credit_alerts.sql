-- A credit is warned of by itself, once over all months: it may be as large as the month's cap in money.

ALTER TABLE billing.alert ADD COLUMN is_credit boolean NOT NULL DEFAULT false;
DROP INDEX billing.alert_once_a_threshold;
CREATE UNIQUE INDEX alert_once_a_threshold
    ON billing.alert (tenant_id, period, key_id, meter, at_most, threshold_percent) NULLS NOT DISTINCT
    WHERE type = 'cap.threshold_reached' AND NOT is_credit;
CREATE UNIQUE INDEX alert_once_a_credit
    ON billing.alert (tenant_id, at_most, threshold_percent)
    WHERE type = 'cap.threshold_reached' AND is_credit;
